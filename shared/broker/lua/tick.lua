#!lua
-- Sends a schedule's task for one scheduled time, once however many schedulers ask.
-- ARGV: schedule, scheduled ms, ms that a tick is remembered, id, record. Answers 'sent', 'known' or 'too_old'.
-- uses time, admit
local schedule_name, at, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if at <= now - remembered then return 'too_old' end
if not redis.call('SET', ticked(schedule_name, ARGV[2]), '', 'NX', 'PX', at + remembered - now) then return 'known' end
admit(ARGV[4], '0', ARGV[5])
return 'sent'

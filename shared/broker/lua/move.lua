#!lua
-- Makes a task that has not begun due at another time. ARGV: id, due. Answers 'moved', 'running', 'ended', 'unknown'.
-- uses record, schedule, withdraw
local id, due = ARGV[1], ARGV[2]
if redis.call('EXISTS', ended(id)) == 1 then return 'ended' end
local record = redis.call('HGET', messages, id)
if not record then return 'unknown' end
local held = redis.call('HMGET', live(id), 'token', 'run')
if held[1] and held[1] == held[2] then return 'running' end
local queue, priority = header(record)
if not queue then return 'unknown' end -- damaged: a dead letter as soon as it is fetched
withdraw(id, queue, priority)
redis.call('HDEL', live(id), 'token')
schedule(id, queue, priority, due)
return 'moved'

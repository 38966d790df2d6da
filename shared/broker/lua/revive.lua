#!lua
-- Sends a dead letter again, as a new task. ARGV: queue, id, id and record of the new task. Answers '', 'unknown', or
-- the state of the task that has the new id.
-- uses admit
local queue, id = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', dead(queue), id) then return 'unknown' end
local taken = admit(ARGV[3], '0', ARGV[4])
if taken == '' then
  redis.call('ZREM', dead(queue), id)
  redis.call('HDEL', messages, id)
end
return taken

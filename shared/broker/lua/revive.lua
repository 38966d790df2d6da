#!lua
-- Sends a dead letter again, as a new task. ARGV: queue, id, id and record of the new task. Answers '', also to a call
-- that repeats itself; the state of the task that has the new id; or 'unknown' where there is neither.
-- uses admit
local queue, id, new, record = unpack(ARGV)
local is_there = redis.call('ZSCORE', dead(queue), id)
if not is_there and redis.call('EXISTS', ended(new)) + redis.call('HEXISTS', messages, new) == 0 then
  return 'unknown'
end
local taken = admit(new, '0', record)
if is_there and taken == '' then
  redis.call('ZREM', dead(queue), id)
  redis.call('HDEL', messages, id)
end
return taken

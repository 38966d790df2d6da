#!lua flags=no-writes
-- Finds a dead letter. ARGV: id, queues. Answers the queue it is of and its record, or nothing.
local id = ARGV[1]
for i = 2, #ARGV do
  if redis.call('ZSCORE', dead(ARGV[i]), id) then return {ARGV[i], redis.call('HGET', messages, id)} end
end
return {}

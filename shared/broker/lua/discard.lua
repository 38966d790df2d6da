#!lua flags=allow-oom
-- Throws a dead letter away; how its task ended stays known. ARGV: queue, id. Answers 1, or 0 where there is none.
local gone = redis.call('ZREM', dead(ARGV[1]), ARGV[2])
if gone == 1 then redis.call('HDEL', messages, ARGV[2]) end
return gone

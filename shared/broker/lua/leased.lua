#!lua flags=no-writes
-- Lists what workers hold. ARGV: how many at most of each queue, queues. Answers ids.
local found = {}
for i = 2, #ARGV do
  for _, id in ipairs(redis.call('ZRANGE', leases(ARGV[i]), 0, ARGV[1] - 1)) do found[#found + 1] = id end
end
return found

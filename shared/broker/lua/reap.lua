#!lua flags=allow-oom
-- Takes back tasks whose lease has run out: their worker is dead, frozen or cut off. ARGV: how many of each queue at
-- most, ms that a lease lasts, ms to keep the end of those that end here, what is said to have come of them, queues.
-- Answers id and what became of it, as put_back says. Leases that a clock since set back has given are cut to length.
-- uses time, put_back
local answers = {}
for i = 5, #ARGV do
  local queue = ARGV[i]
  for _, id in ipairs(redis.call('ZRANGE', leases(queue), now + MINUTE, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
    redis.call('ZADD', leases(queue), now + ARGV[2], id)
  end
  for _, id in ipairs(redis.call('ZRANGE', leases(queue), '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
    answers[#answers + 1] = id
    answers[#answers + 1] = put_back(queue, id, true, ARGV[3], ARGV[4])
  end
end
return answers

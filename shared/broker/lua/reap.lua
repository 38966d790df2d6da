#!lua flags=allow-oom
-- Takes back tasks whose lease has run out: their worker is dead, frozen or cut off. ARGV: how many of each queue at
-- most, ms to keep the end of those that end here, what is said to have come of them, queues.
-- Answers id and what became of it, as put_back says.
-- uses time, put_back
local answers = {}
for i = 4, #ARGV do
  local queue = ARGV[i]
  for _, id in ipairs(redis.call('ZRANGE', leases(queue), '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
    answers[#answers + 1] = id
    answers[#answers + 1] = put_back(queue, id, true, ARGV[2], ARGV[3])
  end
end
return answers

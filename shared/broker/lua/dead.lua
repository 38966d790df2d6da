#!lua flags=no-writes
-- Lists dead letters, the latest first. ARGV: queue, how many to pass over, how many at most. Answers id, record and
-- how it ended of each; none of those that are about to be let go, whose end is forgotten.
local answers = {}
for _, id in ipairs(redis.call('ZREVRANGE', dead(ARGV[1]), ARGV[2], ARGV[2] + ARGV[3] - 1)) do
  local over = redis.call('GET', ended(id))
  if over then
    answers[#answers + 1] = id
    answers[#answers + 1] = redis.call('HGET', messages, id)
    answers[#answers + 1] = over
  end
end
return answers

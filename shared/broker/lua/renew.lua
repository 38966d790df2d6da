#!lua flags=allow-oom
-- Prolongs leases. ARGV: ms that they last from now, then queue, id and token of each. A lease that has run out is
-- prolonged too while nobody has taken the task back. Answers for each: 'held', 'lost', or where it has been cancelled
-- 'cancelled' or, where it is to be stopped, 'interrupt'.
-- uses time
local answers = {}
for i = 2, #ARGV, 3 do
  local queue, id, token = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local held = redis.call('HMGET', live(id), 'token', 'cancelled')
  if held[1] == token then
    redis.call('ZADD', leases(queue), now + ARGV[1], id)
    answers[#answers + 1] = held[2] or 'held'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers

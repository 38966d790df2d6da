#!lua flags=allow-oom
-- A worker that stops returns what it holds. ARGV: ms to keep the end of those that end here, what is said to have come
-- of them, then queue, id and token of each. Answers for each: 'returned', 'lost' and so on, as put_back says.
-- uses put_back
local answers = {}
for i = 3, #ARGV, 3 do
  local queue, id, token = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local is_held = redis.call('HGET', live(id), 'token') == token
  answers[#answers + 1] = is_held and put_back(queue, id, false, ARGV[1], ARGV[2]) or 'lost'
end
return answers

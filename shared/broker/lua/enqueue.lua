#!lua
-- Takes new tasks in. ARGV: id, due, record of each. Answers for each: '', or the state of the task that has its id.
-- uses admit
local answers = {}
for i = 1, #ARGV, 3 do
  answers[#answers + 1] = admit(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return answers

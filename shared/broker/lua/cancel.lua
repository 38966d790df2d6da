#!lua flags=allow-oom
-- Cancels tasks. ARGV: ms to keep that, 'interrupt' or 'cancelled', what the one task is or '', ids.
-- Answers for each as lib/cancel.lua says.
-- uses cancel
local keep, how, about = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local answers = {}
for i = 4, #ARGV do answers[#answers + 1] = cancel(ARGV[i], how, keep, about) end
return answers

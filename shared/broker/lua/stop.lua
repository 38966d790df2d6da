#!lua flags=allow-oom
-- Cancels a chain. ARGV: ms to keep the ends of those that end here, ms for which those that have not been sent cannot
-- be, 'interrupt' or 'cancelled', then id and what it is or '' of each, in their order.
-- Whoever is under way sends the next at its end: so that it cannot, tombstones are left for all that would come. An end
-- is told after the next has been sent: where the last that is known has ended, nothing comes any more.
-- Answers for each as lib/cancel.lua does.
-- uses cancel
local keep, stopped, how = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local answers, is_under_way = {}, false
for i = 4, #ARGV, 2 do
  local outcome = cancel(ARGV[i], how, keep, ARGV[i + 1])
  answers[#answers + 1] = outcome
  if outcome == 'running' or outcome == 'terminated' then is_under_way = true end
  if outcome == 'unknown' and is_under_way then finish(ARGV[i], '', 'R', 'c', '\0\0\0\0', stopped, '') end
end
return answers

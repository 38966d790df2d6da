#!lua flags=no-writes
-- Counts queues. ARGV: queues. Answers for each: ready by priority from 0 to 9, to run alone, due later, leased, dead,
-- due already and not moved yet, ms that the first ready has waited (-1: none), ms until the next is due (-1: none).
-- uses time
local answers = {}
for _, queue in ipairs(ARGV) do
  local row, oldest = {}, nil
  for number = 0, 10 do
    local set = number < 10 and ready(queue, number) or alone(queue)
    row[#row + 1] = redis.call('ZCARD', set)
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first and (not oldest or tonumber(first) < oldest) then oldest = tonumber(first) end
  end
  local overdue = redis.call('ZCOUNT', due_set(queue), '-inf', now)
  local next_due = redis.call('ZRANGE', due_set(queue), 0, 0, 'WITHSCORES')[2]
  row[#row + 1] = redis.call('ZCARD', due_set(queue)) - overdue
  row[#row + 1] = redis.call('ZCARD', leases(queue))
  row[#row + 1] = redis.call('ZCARD', dead(queue))
  row[#row + 1] = overdue
  row[#row + 1] = oldest and math.max(0, math.floor((now_us - oldest) / 1000)) or -1
  row[#row + 1] = next_due and math.max(0, tonumber(next_due) - now) or -1
  answers[#answers + 1] = row
end
return answers

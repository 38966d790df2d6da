#!lua flags=allow-oom
-- Moves what is due into its queue, and lets go of old dead letters. ARGV: how many of each queue at most, '1' to wake
-- another worker for what is ready, queues. Answers: ms until the next is due (-1: none), '1' where a lease has run
-- out, queues with some ready.
-- uses time, record, signal, waiting, bury
local limit, wakes = tonumber(ARGV[1]), ARGV[2] == '1'
local next_in, lapsed, with_some = -1, '', {}

for i = 3, #ARGV do
  local queue = ARGV[i]
  let_go(queue)
  local ids = redis.call('ZRANGE', due_set(queue), '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  for number, id in ipairs(ids) do
    redis.call('ZREM', due_set(queue), id)
    local record = redis.call('HGET', messages, id)
    if record then
      local _, _, priority = pcall(header, record) -- one that is damaged becomes a dead letter when it is fetched
      redis.call('ZADD', waiting(id, queue, tonumber(priority) or 5), now_us + number, id)
    end
  end
  local first = redis.call('ZRANGE', due_set(queue), 0, 0, 'WITHSCORES')
  if first[1] then
    local ms = math.max(0, tonumber(first[2]) - now)
    if next_in < 0 or ms < next_in then next_in = ms end
  end
  local lease = redis.call('ZRANGE', leases(queue), 0, 0, 'WITHSCORES')
  if lease[1] and tonumber(lease[2]) <= now then lapsed = '1' end
  local some = redis.call('ZCARD', alone(queue))
  for priority = 9, 0, -1 do
    if some == 0 then some = redis.call('ZCARD', ready(queue, priority)) end
  end
  if some > 0 then
    with_some[#with_some + 1] = queue
    if wakes then ring(signal(queue)) end
  end
end
return {next_in, lapsed, with_some}

#!lua flags=allow-oom
-- Moves what is due into its queue, and lets go of old dead letters. ARGV: how many of each queue at most, '1' to wake
-- another worker for what is ready, queues. Answers: the time, ms until the next is due (-1: none), '1' where a lease
-- has run out or ends in a time so far off that the clock must have been set back, queues with some ready.
-- uses time, record, signal, waiting, bury, any_ready
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
      local _, priority = header(record) -- one that is damaged becomes a dead letter when it is fetched
      redis.call('ZADD', waiting(id, queue, priority or 5), now_us + number, id)
    end
  end
  local first = redis.call('ZRANGE', due_set(queue), 0, 0, 'WITHSCORES')
  if first[1] then
    local ms = math.max(0, tonumber(first[2]) - now)
    if next_in < 0 or ms < next_in then next_in = ms end
  end
  local lease = redis.call('ZRANGE', leases(queue), 0, 0, 'WITHSCORES')
  local last_lease = redis.call('ZRANGE', leases(queue), -1, -1, 'WITHSCORES')
  if lease[1] and (tonumber(lease[2]) <= now or tonumber(last_lease[2]) > now + MINUTE) then lapsed = '1' end
  if any_ready(queue) then
    with_some[#with_some + 1] = queue
    if wakes then ring(signal(queue)) end
  end
end
return {now, next_in, lapsed, with_some}

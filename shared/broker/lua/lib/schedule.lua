-- uses time, signal, waiting
-- Puts a task where it waits: into the due set, or if it is due already into its queue, behind what is there.
-- `due`: ms since 1970, or +ms from now. A batch counts up `behind`, so that its order is kept.
local behind = 0

local function due_at(due)
  if string.sub(due, 1, 1) == '+' then return now + tonumber(due) end
  return tonumber(due)
end

local function schedule(id, queue, priority, due)
  local at = due_at(due)
  if at <= now then
    redis.call('ZADD', waiting(id, queue, priority), now_us + behind, id)
    behind = behind + 1
    return ring(signal(queue))
  end
  local first = redis.call('ZRANGE', due_set(queue), 0, 0, 'WITHSCORES')
  redis.call('ZADD', due_set(queue), at, id)
  if not first[1] or at < tonumber(first[2]) then ring(sooner(queue)) end
end

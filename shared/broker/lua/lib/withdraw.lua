-- Takes a task that has not begun out of wherever it waits: due, ready, or held by a worker that has yet to begin it.
local function withdraw(id, queue, priority)
  if redis.call('ZREM', due_set(queue), id) == 1 then return end
  if redis.call('ZREM', ready(queue, priority), id) == 1 then return end
  if redis.call('ZREM', alone(queue), id) == 1 then return end
  redis.call('ZREM', leases(queue), id)
end

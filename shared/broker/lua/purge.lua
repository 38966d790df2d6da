#!lua flags=allow-oom
-- Drops tasks of a queue, whatever their state, without a trace. ARGV: queue, how many at most of each kind.
-- Answers how many: 0 once the queue is empty.
local queue, gone = ARGV[1], 0

local function drop(set)
  local ids = redis.call('ZRANGE', set, 0, ARGV[2] - 1)
  for _, id in ipairs(ids) do
    redis.call('ZREM', set, id)
    redis.call('HDEL', messages, id)
    redis.call('DEL', live(id))
  end
  gone = gone + #ids
end

for priority = 0, 9 do drop(ready(queue, priority)) end
for _, set in ipairs({due_set(queue), alone(queue), leases(queue), dead(queue)}) do drop(set) end
return gone

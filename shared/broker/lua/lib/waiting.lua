-- The set in which a task waits that is due. One that has lost two runs is run alone.
local ALONE_AFTER = 2

local function waiting(id, queue, priority)
  local lost = redis.call('HGET', live(id), 'lost')
  return lost and tonumber(lost) >= ALONE_AFTER and alone(queue) or ready(queue, priority)
end

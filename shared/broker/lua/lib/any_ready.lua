-- Whether anything of a queue waits to be fetched.
local function any_ready(queue)
  local some = redis.call('ZCARD', alone(queue))
  for priority = 9, 0, -1 do
    if some == 0 then some = redis.call('ZCARD', ready(queue, priority)) end
  end
  return some > 0
end

-- Wakes one waiting worker. One token is enough: whoever takes it and leaves something over puts it back.
local function ring(list)
  if redis.call('LLEN', list) == 0 then redis.call('RPUSH', list, '') end
end

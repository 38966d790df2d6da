#!lua flags=allow-oom
-- Hands ready tasks to a worker, each under a lease. ARGV: queue, how many at most, token, ms that the lease lasts.
-- Answers: '1' where this one is to run alone, '1' where more are ready, then id and record of each.
-- Priority 9 goes first; but one task in 16 is from the lowest priority, so that none waits for ever.
-- uses time, signal, any_ready
local queue, wanted, token, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local found = {'', ''}

local function take(set, home, count)
  local popped = count > 0 and redis.call('ZPOPMIN', set, count) or {}
  for i = 1, #popped, 2 do
    local id, place = popped[i], popped[i + 1]
    redis.call('ZADD', leases(queue), now + lease_ms, id)
    redis.call('HSET', live(id), 'token', token, 'place', place, unpack(home))
    found[#found + 1] = id
    found[#found + 1] = redis.call('HGET', messages, id)
  end
  wanted = wanted - #popped / 2
  return #popped > 0
end

local is_alone = take(alone(queue), {}, 1)
if not is_alone then
  local asked = redis.call('INCRBY', turns(queue), wanted)
  local kept = math.floor(asked / 16) - math.floor((asked - wanted) / 16)
  for priority = 9, 0, -1 do
    take(ready(queue, priority), {'home', priority}, wanted - kept)
  end
  if kept > 0 then
    for priority = 0, 9 do take(ready(queue, priority), {'home', priority}, wanted) end
  end
end

local is_more = (is_alone or wanted == 0) and any_ready(queue)
if is_more then ring(signal(queue)) end
found[1], found[2] = is_alone and '1' or '', is_more and '1' or ''
return found

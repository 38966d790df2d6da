-- uses time, finish, bury, record, signal, waiting
-- Takes a held task from whoever holds it, back to its place. `is_lost`: by force, as its lease ran out. Then a run
-- that had begun counts as lost; after more than five the task is a dead letter. A task that had not begun may come
-- back 50 times. `worker_lost` is said to have come of a dead letter. A task whose cancelling was too late for that run
-- ends here. Answers 'returned', 'lost' for a run that had begun, 'buried', 'revoked', or 'gone' without a record.
local LOST_RUNS, RETURNS = 5, 50

local function put_back(queue, id, is_lost, keep, worker_lost)
  local held = redis.call('HMGET', live(id), 'token', 'run', 'place', 'home', 'lost', 'returns', 'cancelled',
    'killable', 'keep')
  keep = held[9] or keep
  local begun = held[2] == held[1]
  local lost, returns = tonumber(held[5] or 0), tonumber(held[6] or 0)
  if begun and is_lost then lost = lost + 1 end
  if not begun then returns = returns + 1 end
  redis.call('ZREM', leases(queue), id)
  local record = redis.call('HGET', messages, id)
  if not record then return redis.call('DEL', live(id)) and 'gone' end
  local is_readable, _, nonce = header(record)
  if not is_readable then
    bury(queue, id, '\0\0\0\0', keep, worker_lost)
    return 'buried'
  end
  if held[7] then
    finish(id, queue, 'R', held[8] and held[7] == 'interrupt' and 't' or 'c', nonce, keep, '')
    redis.call('HDEL', messages, id)
    return 'revoked'
  end
  if lost > LOST_RUNS or returns > RETURNS then
    bury(queue, id, nonce, keep, worker_lost)
    return 'buried'
  end
  redis.call('HDEL', live(id), 'token', 'run', 'killable')
  if begun then redis.call('HDEL', live(id), 'state') end
  redis.call('HSET', live(id), 'lost', lost, 'returns', returns)
  redis.call('ZADD', waiting(id, queue, held[4]), held[3], id)
  ring(signal(queue))
  return begun and 'lost' or 'returned'
end

-- uses time, record, finish, withdraw
-- Cancels a task. `how`: 'interrupt' to stop a run that has begun or 'cancelled' to let it end. `about`: what it is, or ''
-- (then a tombstone of twelve bytes is all that is left of one that had not begun). Answers 'revoked'; 'terminated' (a run
-- that can be killed will be, whatever it says of itself); 'running' (this run goes on or is asked to stop; none follows
-- it); 'too_late'; 'unknown'.
-- A tombstone outlives the time at which the task would have been due.
local function cancel(id, how, keep, about)
  local over = redis.call('GET', ended(id))
  if over then return string.sub(over, 1, 1) == 'R' and 'revoked' or 'too_late' end
  local record = redis.call('HGET', messages, id)
  if not record then return 'unknown' end
  local held = redis.call('HMGET', live(id), 'token', 'run', 'killable')
  if held[1] and held[1] == held[2] then
    redis.call(how == 'interrupt' and 'HSET' or 'HSETNX', live(id), 'cancelled', how)
    redis.call('PUBLISH', control(string.match(held[1], '^[^.]+')), string.sub(how, 1, 1) .. id)
    return how == 'interrupt' and held[3] and 'terminated' or 'running'
  end
  local queue, priority, nonce = header(record)
  if not queue then return 'unknown' end -- damaged: a dead letter as soon as it is fetched
  local at = redis.call('ZSCORE', due_set(queue), id)
  withdraw(id, queue, priority)
  if about ~= '' then redis.call('HSET', live(id), 'about', about) end
  finish(id, queue, 'R', 'c', nonce, keep + math.max(0, tonumber(at or now) - now), '')
  redis.call('HDEL', messages, id)
  return 'revoked'
end

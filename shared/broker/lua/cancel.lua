#!lua flags=allow-oom
-- Cancels tasks. ARGV: ms to keep that, 'interrupt' to stop a run that has begun or 'cancelled' to let it end, ids.
-- Answers for each: 'revoked', 'running' (this run goes on or is told to stop; none follows it), 'too_late', 'unknown'.
-- A tombstone outlives the time at which the task would have been due.
-- uses time, record, finish, withdraw
local keep, how = tonumber(ARGV[1]), ARGV[2]

local function cancel(id)
  local over = redis.call('GET', ended(id))
  if over then return string.sub(over, 1, 1) == 'R' and 'revoked' or 'too_late' end
  local record = redis.call('HGET', messages, id)
  if not record then return 'unknown' end
  local held = redis.call('HMGET', live(id), 'token', 'run')
  if held[1] and held[1] == held[2] then
    redis.call(how == 'interrupt' and 'HSET' or 'HSETNX', live(id), 'cancelled', how)
    if how == 'interrupt' then redis.call('PUBLISH', control(string.match(held[1], '^[^.]+')), id) end
    return 'running'
  end
  local queue, priority, nonce = header(record)
  if not queue then return 'unknown' end -- damaged: a dead letter as soon as it is fetched
  local at = redis.call('ZSCORE', due_set(queue), id)
  withdraw(id, queue, priority)
  finish(id, 'R', 'c', nonce, keep + math.max(0, tonumber(at or now) - now), '')
  redis.call('HDEL', messages, id)
  return 'revoked'
end

local answers = {}
for i = 3, #ARGV do answers[#answers + 1] = cancel(ARGV[i]) end
return answers

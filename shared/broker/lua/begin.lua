#!lua flags=allow-oom
-- Asks whether a delivery may run, and if so begins the run. ARGV: queue, id, token, nonce, ms when it expires
-- (0: never), what it is, ms that its end is kept, '1' where the run can be killed. Answers which delivery to a run this
-- is, counted from 1; or 'revoked', 'expired', 'done' or 'lost'.
-- uses time, finish
local queue, id, token, nonce, expires, about, keep, killable = unpack(ARGV)
local held = redis.call('HMGET', live(id), 'token', 'run', 'deliveries')

if held[1] ~= token then
  local over = redis.call('GET', ended(id))
  if not over then return 'lost' end
  return string.sub(over, 1, 1) == 'R' and 'revoked' or 'done'
end
if held[2] == token then return held[3] end -- the answer to this very call was lost

redis.call('HSET', live(id), 'about', about, 'keep', keep)
if tonumber(expires) > 0 and tonumber(expires) <= now then
  redis.call('ZREM', leases(queue), id)
  finish(id, queue, 'R', 'e', nonce, keep, '')
  redis.call('HDEL', messages, id)
  return 'expired'
end
redis.call('HDEL', live(id), 'outcome', 'progress') -- of the run before
redis.call('HSET', live(id), 'state', 'STARTED', 'run', token, 'started_at', now)
if killable == '1' then redis.call('HSET', live(id), 'killable', '1') end
return tostring(redis.call('HINCRBY', live(id), 'deliveries', 1))

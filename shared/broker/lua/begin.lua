#!lua flags=allow-oom
-- Asks whether a delivery may run, and if so begins the run. ARGV: queue, id, token, nonce, ms when it expires
-- (0: never), what it is, ms that its end is kept. Answers 'run', 'revoked', 'expired', 'done' or 'lost'.
-- uses time, finish
local queue, id, token, nonce, expires, about, keep = unpack(ARGV)
local held = redis.call('HMGET', live(id), 'token', 'run')

if held[1] ~= token then
  local over = redis.call('GET', ended(id))
  if not over then return 'lost' end
  return string.sub(over, 1, 1) == 'R' and 'revoked' or 'done'
end
if held[2] == token then return 'run' end -- the answer to this very call was lost

redis.call('HSET', live(id), 'about', about)
if tonumber(expires) > 0 and tonumber(expires) <= now then
  redis.call('ZREM', leases(queue), id)
  finish(id, 'R', 'e', nonce, keep, '')
  redis.call('HDEL', messages, id)
  return 'expired'
end
redis.call('HSET', live(id), 'state', 'STARTED', 'run', token, 'started_at', now)
redis.call('HINCRBY', live(id), 'deliveries', 1)
return 'run'

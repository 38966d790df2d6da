#!lua flags=allow-oom
-- Lets go of a task that is to run again, or that has moved itself. ARGV: queue, id, token, due, record, state
-- ('RETRY', or 'PENDING' for one that was only early), retries, what came of this run, ms to keep its end.
-- Answers 'retried'; 'revoked' where it has been cancelled meanwhile; 'lost'.
-- uses schedule, record, finish
local queue, id, token, due, record, state, retries, outcome, keep = unpack(ARGV)
local held = redis.call('HMGET', live(id), 'token', 'cancelled', 'killable')
if held[1] ~= token then return 'lost' end
redis.call('ZREM', leases(queue), id)
local to, priority, nonce = header(record)
if held[2] then
  finish(id, to, 'R', held[2] == 'interrupt' and held[3] and 't' or 'c', nonce, keep, outcome)
  redis.call('HDEL', messages, id)
  return 'revoked'
end
redis.call('HDEL', live(id), 'token', 'run', 'lost', 'returns', 'killable')
redis.call('HSET', live(id), 'state', state, 'retries', retries, 'outcome', outcome)
redis.call('HSET', messages, id, record)
schedule(id, to, priority, due)
return 'retried'

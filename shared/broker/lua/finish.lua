#!lua flags=allow-oom
-- Ends a task whose run has ended. ARGV: queue, id, token, nonce, letters of state and reason, ms to keep this,
-- what came of it, '1' to keep its message among the dead letters, what it is unless begin has been told, the last
-- progress. Answers 'finished', 'revoked' where somebody has been promised that it is killed, or 'lost'
-- where the delivery no longer holds the task.
-- uses finish, bury
local queue, id, token, nonce, state, reason, keep, outcome, is_dead, about, progress = unpack(ARGV)
local held = redis.call('HMGET', live(id), 'token', 'cancelled', 'killable')
if held[1] ~= token then return 'lost' end
redis.call('ZREM', leases(queue), id)
if about ~= '' then redis.call('HSET', live(id), 'about', about) end
if progress ~= '' then redis.call('HSET', live(id), 'progress', progress) end
local is_terminated = held[2] == 'interrupt' and held[3]
if is_dead == '1' and not is_terminated then
  bury(queue, id, nonce, keep, outcome)
  return 'finished'
end
if is_terminated then
  finish(id, queue, 'R', 't', nonce, keep, '')
else
  finish(id, queue, state, reason, nonce, keep, outcome)
end
redis.call('HDEL', messages, id)
return is_terminated and state ~= 'R' and 'revoked' or 'finished'

#!lua flags=allow-oom
-- Ends a task whose run has ended. ARGV: queue, id, token, nonce, letters of state and reason, ms to keep this,
-- what came of it, '1' to keep its message among the dead letters, what it is unless begin has been told.
-- Answers 'finished', or 'lost' where the delivery no longer holds the task.
-- uses finish, bury
local queue, id, token, nonce, state, reason, keep, outcome, is_dead, about = unpack(ARGV)
if redis.call('HGET', live(id), 'token') ~= token then return 'lost' end
redis.call('ZREM', leases(queue), id)
if about ~= '' then redis.call('HSET', live(id), 'about', about) end
if is_dead == '1' then
  bury(queue, id, nonce, keep, outcome)
else
  finish(id, state, reason, nonce, keep, outcome)
  redis.call('HDEL', messages, id)
end
return 'finished'

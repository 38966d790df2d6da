#!lua flags=allow-oom
-- A run that can be killed has ended by itself, and something is about to follow from it: from now on it is too late to
-- kill it. ARGV: id, token. Answers 'ends'; or 'killed' where somebody has been promised that it is, or where it no
-- longer holds the task.
local id, token = ARGV[1], ARGV[2]
local held = redis.call('HMGET', live(id), 'token', 'cancelled', 'killable')
if held[1] ~= token or held[2] == 'interrupt' and held[3] then return 'killed' end
redis.call('HDEL', live(id), 'killable')
return 'ends'

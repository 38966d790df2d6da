#!lua
-- Notes how far a run is. ARGV: id, token, progress. Answers 'noted', or 'lost' where the delivery no longer holds the task.
local id, token, progress = unpack(ARGV)
if redis.call('HGET', live(id), 'token') ~= token then return 'lost' end
redis.call('HSET', live(id), 'progress', progress)
return 'noted'

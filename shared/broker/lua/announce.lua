#!lua
-- A worker says that it lives, and those that have not for long are forgotten. ARGV: process, ms until one is forgotten,
-- how many at most are known, ms when this one has begun (0: now), what it is ('': it ends). Answers when it has begun.
-- uses time
local process, forgotten_after, most, began, what = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
if what == '' then
  redis.call('HDEL', workers, process)
  return began
end
if began == 0 then began = now end
local known = redis.call('HGETALL', workers)
for i = 1, #known, 2 do
  if now - struct.unpack('>I6', known[i + 1]) > forgotten_after then redis.call('HDEL', workers, known[i]) end
end
if redis.call('HLEN', workers) < most or redis.call('HEXISTS', workers, process) == 1 then
  redis.call('HSET', workers, process, struct.pack('>I6I6', now, began) .. what)
end
return began

#!lua
-- A member of a group has succeeded; it may say so more than once. ARGV: group, id, ms for which the group is remembered
-- from now, then id and record of each that is to be called back. Answers 'counted'; 'unknown'; and where all have:
-- 'last', or if it has been told whom to call 'called', and the group is done.
-- uses admit
local key, id, remembered = group(ARGV[1]), ARGV[2], ARGV[3]
if redis.call('EXISTS', key) == 0 then return 'unknown' end
if redis.call('HSETNX', key, id, '') == 1 then redis.call('HINCRBY', key, 'left', -1) end
redis.call('PEXPIRE', key, remembered)
if tonumber(redis.call('HGET', key, 'left')) > 0 then return 'counted' end
if #ARGV == 3 then return 'last' end
for i = 4, #ARGV, 2 do admit(ARGV[i], '0', ARGV[i + 1]) end
redis.call('DEL', key)
return 'called'

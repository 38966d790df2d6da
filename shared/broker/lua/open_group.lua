#!lua
-- Counts a group from now on. ARGV: group, how many belong to it, ms for which that is remembered.
redis.call('HSETNX', group(ARGV[1]), 'left', ARGV[2])
redis.call('PEXPIRE', group(ARGV[1]), ARGV[3])
return 'open'

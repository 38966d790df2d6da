#!lua flags=allow-oom
-- Removes what is known of a task that has ended, its dead letter included. ARGV: id, queue or '' where that is not known.
-- Answers 'forgotten', 'unknown', or 'under_way'.
-- uses record
local id, queue = ARGV[1], ARGV[2]
if redis.call('DEL', ended(id)) == 0 then
  return redis.call('HEXISTS', messages, id) == 1 and 'under_way' or 'unknown'
end
if queue == '' then -- a dead letter that never began: its message says it
  local record = redis.call('HGET', messages, id)
  queue = record and header(record) or ''
end
if queue ~= '' then
  redis.call('ZREM', recent(queue), id)
  redis.call('ZREM', dead(queue), id)
end
redis.call('HDEL', messages, id)
return 'forgotten'

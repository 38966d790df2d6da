#!lua flags=no-writes
-- What is known of a task. ARGV: id. Answers how it ended; or false, its record or false, ms when it is due or false,
-- then name and value of each live field.
-- uses record
local id = ARGV[1]
local over = redis.call('GET', ended(id))
if over then return {over, false, false} end
local record = redis.call('HGET', messages, id)
local queue = record and header(record)
local at = queue and redis.call('ZSCORE', due_set(queue), id)
return {false, record, at or false, unpack(redis.call('HGETALL', live(id)))}

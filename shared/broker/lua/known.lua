#!lua flags=no-writes
-- Whether anything is known of tasks. ARGV: ids. Answers '1' or '' for each.
local answers = {}
for i, id in ipairs(ARGV) do
  local is_known = redis.call('EXISTS', ended(id)) == 1 or redis.call('HEXISTS', messages, id) == 1
  answers[i] = is_known and '1' or ''
end
return answers

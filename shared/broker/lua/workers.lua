#!lua flags=no-writes
-- Lists workers. ARGV: ms after which one that has said nothing is dead. Answers of each the process, ms when it was
-- seen last, ms when it has begun, and what it is.
-- uses time
local found, known = {}, redis.call('HGETALL', workers)
for i = 1, #known, 2 do
  if #known[i + 1] > 12 then
    local seen, began = struct.unpack('>I6I6', known[i + 1])
    if now - seen <= tonumber(ARGV[1]) then
      found[#found + 1] = {known[i], seen, began, string.sub(known[i + 1], 13)}
    end
  end
end
return found

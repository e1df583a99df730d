-- Appends items to a conversation.
-- Answers the state.
local max_items, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local items_at = 5

if not known then return 0 end
if not append(items_at, max_items, max_bytes) then return 3 end
keep()
return 1

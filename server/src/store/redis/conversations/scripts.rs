//! What changes and reads a conversation, or a tenant's index of them, as a whole.

use std::sync::LazyLock;

use ::redis::Script;

use super::super::scripts::without_memory;

/// What every script begins with. `ARGV`: tenant, time to live, then its own. Items are `count, id, body, …` from `at` on.
/// Answers: 0 not found, 1 done, 2 busy, 3 full, 4 no such item.
const PRELUDE: &str = r"
local about, items, order, line, turns, responses = unpack(KEYS)
local known = redis.call('HGET', about, 'tenant') == ARGV[1]
local function keep()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
end
local function append(at, max_items, max_bytes)
  local count, bytes = tonumber(ARGV[at]), 0
  if count == 0 or redis.call('HEXISTS', items, ARGV[at + 1]) == 1 then return true end
  for n = 1, count do bytes = bytes + #ARGV[at + 2 * n] end
  local all = tonumber(redis.call('HGET', about, 'bytes') or 0) + bytes
  if max_items and (redis.call('HLEN', items) + count > max_items or all > max_bytes) then return false end
  redis.call('HSET', about, 'bytes', all)
  for n = 1, count do
    local id = ARGV[at + 2 * n - 1]
    redis.call('HSET', items, id, ARGV[at + 2 * n])
    redis.call('ZADD', order, redis.call('HINCRBY', about, 'next', 1), id)
  end
  return true
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{PRELUDE}{body}"))
}

/// A script for what must be possible in a full Redis too.
fn ending(body: &str) -> Script {
    without_memory(&format!("{PRELUDE}{body}"))
}

/// created_at, metadata, max items, max bytes, items.
pub static CREATE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if redis.call('EXISTS', about) == 1 then return known and 1 or 0 end
if not append(7, tonumber(ARGV[5]), tonumber(ARGV[6])) then
  redis.call('DEL', about)
  return 3
end
redis.call('HSET', about, 'tenant', ARGV[1], 'created_at', ARGV[3], 'metadata', ARGV[4])
keep()
return 1",
    )
});

/// max items, max bytes, items.
pub static APPEND: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
if not append(5, tonumber(ARGV[3]), tonumber(ARGV[4])) then return 3 end
keep()
return 1",
    )
});

/// metadata.
pub static SET_METADATA: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
redis.call('HSET', about, 'metadata', ARGV[3])
keep()
return 1",
    )
});

/// item.
pub static REMOVE_ITEM: LazyLock<Script> = LazyLock::new(|| {
    ending(
        r"
if not known then return 0 end
local body = redis.call('HGET', items, ARGV[3])
if not body then return 4 end
redis.call('HDEL', items, ARGV[3])
redis.call('ZREM', order, ARGV[3])
redis.call('HINCRBY', about, 'bytes', -#body)
keep()
return 1",
    )
});

/// channel. {state, responses}.
pub static DELETE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, {}} end
local all = redis.call('ZRANGE', responses, 0, -1)
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do all[#all + 1] = response end
redis.call('DEL', unpack(KEYS))
redis.call('SPUBLISH', ARGV[3], '')
return {1, all}",
    )
});

/// after, limit, whether the newest come first. {state, items}.
pub static ITEMS: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, {}} end
local reverse, start, limit = ARGV[5] == '1', 0, tonumber(ARGV[4])
if ARGV[3] ~= '' then
  local rank = redis.call(reverse and 'ZREVRANK' or 'ZRANK', order, ARGV[3])
  if not rank then return {4, {}} end
  start = rank + 1
end
local ids = redis.call(reverse and 'ZREVRANGE' or 'ZRANGE', order, start, limit < 0 and -1 or start + limit - 1)
local found = {}
for _, id in ipairs(ids) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', items, id)
end
return {1, found}",
    )
});

/// response, patience. {state, turns ahead}.
pub static ENTER: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, 0} end
local place = redis.call('LPOS', line, ARGV[3])
if place then return {1, place} end
local ahead = redis.call('LLEN', line)
if ahead > tonumber(ARGV[4]) then return {2, ahead} end
local time = redis.call('TIME')
redis.call('RPUSH', line, ARGV[3])
redis.call('HSET', turns, ARGV[3], '0' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
keep()
return {1, ahead}",
    )
});

/// response, channel, max items, max bytes, input.
pub static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return 0 end
if redis.call('ZSCORE', responses, ARGV[3]) then return 1 end
if redis.call('LINDEX', line, 0) ~= ARGV[3] then return 2 end
local turn = redis.call('HGET', turns, ARGV[3])
if string.sub(turn, 1, 1) == '1' then return 1 end
if not append(7, tonumber(ARGV[5]), tonumber(ARGV[6])) then return 3 end
redis.call('HSET', turns, ARGV[3], '1' .. string.sub(turn, 2))
keep()
redis.call('SPUBLISH', ARGV[4], 'b' .. ARGV[3])
return 1",
    )
});

/// response, channel, responses to remember, output.
pub static END: LazyLock<Script> = LazyLock::new(|| {
    ending(
        r"
if not known then return 0 end
local turn = redis.call('HGET', turns, ARGV[3])
if not turn then return 1 end
redis.call('HDEL', turns, ARGV[3])
redis.call('LREM', line, 1, ARGV[3])
if string.sub(turn, 1, 1) == '1' then
  append(6)
  redis.call('HSET', about, 'latest', ARGV[3])
  redis.call('ZADD', responses, redis.call('HINCRBY', about, 'next', 1), ARGV[3])
  redis.call('ZREMRANGEBYRANK', responses, 0, -1 - tonumber(ARGV[5]))
end
keep()
redis.call('SPUBLISH', ARGV[4], 'm')
return 1",
    )
});

/// {state, latest, turns}.
pub static LINE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
if not known then return {0, '', {}} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = {}
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do
  local entered = tonumber(string.sub(redis.call('HGET', turns, response) or '00', 2)) or 0
  all[#all + 1] = response
  all[#all + 1] = string.format('%.0f', math.max(0, now - entered))
end
return {1, redis.call('HGET', about, 'latest') or '', all}",
    )
});

/// index; member, ttl. Its place in the order is when it came.
pub static LIST_IT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'NX', time[1] * 1000000 + time[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZRANDMEMBER', KEYS[1], ARGV[3])",
    )
});

/// index; after, limit, whether the newest come first. False: `after` is not there.
pub static PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local reverse, start, limit = ARGV[3] == '1', 0, tonumber(ARGV[2])
if ARGV[1] ~= '' then
  local rank = redis.call(reverse and 'ZREVRANK' or 'ZRANK', KEYS[1], ARGV[1])
  if not rank then return false end
  start = rank + 1
end
return redis.call(reverse and 'ZREVRANGE' or 'ZRANGE', KEYS[1], start, limit < 0 and -1 or start + limit - 1)",
    )
});

/// index; member, the age in µs that spares it.
pub static STRIKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) + tonumber(ARGV[2]) < time[1] * 1000000 + time[2] then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0",
    )
});

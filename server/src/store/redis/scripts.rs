//! Every change of more than one step, as a script that touches the keys of one response only and may be repeated after a
//! lost answer.

use std::sync::LazyLock;

use redis::Script;

/// A script that Redis runs when it is full too: what ends, leaves or is asked for must be, and takes next to no memory. A script
/// without this is refused as a whole at its first write.
pub fn without_memory(body: &str) -> Script {
    Script::new(&format!("#!lua flags=allow-oom\n{body}"))
}

/// meta, gone; header, tenant, request, store, owner, ttl, ms to keep it after its end, ms to know that it was, whether it
/// has ended already, bytes that it counts, bytes that it is charged with. 1: it is ours and new, or was made by this very call
/// before.
pub static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'owner') == ARGV[5] and 1 or 0
end
redis.call('HSET', KEYS[1], 'header', ARGV[1], 'tenant', ARGV[2], 'request', ARGV[3], 'store', ARGV[4], 'owner', ARGV[5],
  'fence', 1, 'len', 0, 'end', ARGV[9], 'cancel', 0, 'keep', ARGV[7], 'known', ARGV[8], 'bytes', ARGV[10], 'charged', ARGV[11])
redis.call('PEXPIRE', KEYS[1], ARGV[9] == '1' and ARGV[7] or ARGV[6])
if ARGV[9] == '1' and ARGV[4] ~= '1' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[8]) end
return 1",
    )
});

/// For each append: meta, log, gone; fence, first, count, last, ttl, channel, batch. One answer each, in order:
/// {0, cancel, who left, tenant, charge, keep}: applied, now or before; the tenant is to be charged with so many bytes for the
/// log if that is not 0. {1, …}: fenced. {2, len, …}: the log is shorter.
///
/// The time to live is set when the log begins and when it ends; [`RENEW`] renews it in between.
const APPENDING: &str = r"
local function append(meta_key, log_key, gone_key, fence, first, count, last, ttl, channel, batch)
  local meta = redis.call('HMGET', meta_key, 'fence', 'len', 'end', 'cancel', 'store', 'tenant', 'keep', 'known', 'left',
    'bytes', 'charged')
  local fenced = {1, 0, '', '', 0, 0}
  if meta[1] ~= fence then return fenced end
  local len, first = tonumber(meta[2]), tonumber(first)
  local told = {0, tonumber(meta[4]), meta[9] or '', meta[6], 0, tonumber(meta[7])}
  local after = first + tonumber(count)
  if after <= len then return told end
  if first > len then return {2, len, '', '', 0, 0} end
  if first < len or meta[3] == '1' then return fenced end
  redis.call('XADD', log_key, string.format('%d-0', first + 1), 'b', batch)
  local bytes, charged = tonumber(meta[10] or 0) + #batch + 48, tonumber(meta[11] or 0)
  if last == '1' then
    told[5] = bytes
  elseif bytes > charged then
    told[5] = bytes + math.max(4096, math.floor(bytes / 4))
  end
  if told[5] > 0 then
    redis.call('HSET', meta_key, 'len', after, 'bytes', bytes, 'charged', told[5])
  else
    redis.call('HSET', meta_key, 'len', after, 'bytes', bytes)
  end
  if last == '1' then
    redis.call('HSET', meta_key, 'end', 1)
    ttl = meta[7]
    if meta[5] ~= '1' then redis.call('SET', gone_key, meta[6], 'PX', meta[8]) end
  end
  if last == '1' or first == 0 then
    redis.call('PEXPIRE', meta_key, ttl)
    redis.call('PEXPIRE', log_key, ttl)
  end
  redis.call('SPUBLISH', channel, batch)
  return told
end
local answers = {}
for at = 0, #KEYS / 3 - 1 do
  local k, a = 3 * at, 7 * at
  answers[at + 1] = append(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4],
    ARGV[a + 5], ARGV[a + 6], ARGV[a + 7])
end
return answers";

pub static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(APPENDING));

/// Appends that end with the last entry of their logs.
pub static APPEND_LAST: LazyLock<Script> = LazyLock::new(|| without_memory(APPENDING));

/// meta, gone, log; the stream id to begin at, bytes that are enough, whether the header is wanted.
/// {tenant, header, len, gone, whether there is more, appends}. Without a tenant there is none.
pub static PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local meta = redis.call('HMGET', KEYS[1], 'tenant', 'len')
local header = ARGV[3] == '1' and redis.call('HGET', KEYS[1], 'header') or ''
local gone = redis.call('GET', KEYS[2]) or ''
if not meta[1] then return {'', '', 0, gone, 0, {}} end
local appends, size, from, count, more = {}, 0, ARGV[1], 8, 0
repeat
  local range = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', count)
  for _, item in ipairs(range) do
    if size >= tonumber(ARGV[2]) then
      more = 1
      break
    end
    appends[#appends + 1] = item[2][2]
    size = size + #item[2][2]
    from = '(' .. item[1]
  end
  local all = #range < count
  count = math.min(2 * count, 512)
until all or more == 1
return {meta[1], header, tonumber(meta[2]), gone, more, appends}",
    )
});

/// runs; a response, whether it runs here. 1: done.
pub static RUNS: LazyLock<Script> =
    LazyLock::new(|| without_memory("return redis.call(ARGV[2] == '1' and 'SADD' or 'SREM', KEYS[1], ARGV[1])"));

/// follows; ms, how many are followed from now on, those, then those that are not any more. 1: done.
pub static ANNOUNCE: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
for at = 3, #ARGV do
  redis.call(at < 3 + tonumber(ARGV[2]) and 'SADD' or 'SREM', KEYS[1], ARGV[at])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1",
    )
});

/// meta; tenant, response. 0: not found, 1: done.
pub static UNSHARE: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local meta = redis.call('HMGET', KEYS[1], 'tenant', 'end', 'left')
if meta[1] ~= ARGV[1] then return 0 end
if meta[2] ~= '1' then redis.call('HSET', KEYS[1], 'left', (meta[3] or '') .. ' ' .. ARGV[2]) end
return 1",
    )
});

/// meta, log; tenant. {0, 0}: not found. {1, ms}: done, and kept for so long if it has ended.
pub static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local meta = redis.call('HMGET', KEYS[1], 'tenant', 'end', 'keep')
if meta[1] ~= ARGV[1] then return {0, 0} end
if meta[2] ~= '1' then return {1, 0} end
redis.call('PEXPIRE', KEYS[1], meta[3])
redis.call('PEXPIRE', KEYS[2], meta[3])
return {1, tonumber(meta[3])}",
    )
});

/// meta, log; ttl. Keeps what runs from expiring while it waits. 1: its end was asked for.
pub static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local meta = redis.call('HMGET', KEYS[1], 'end', 'cancel')
if meta[1] ~= '0' then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return tonumber(meta[2])",
    )
});

/// meta; me, from, ttl. {fence, cancel, tries, ms since nobody follows it or -1}; {0, 0, 0, -1}: it is not
/// to be had.
pub static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local meta = redis.call('HMGET', KEYS[1], 'owner', 'end', 'cancel', 'len', 'tries', 'tried_at',
  'nobody_since')
if not meta[1] or meta[2] == '1' or (meta[1] ~= ARGV[2] and meta[1] ~= '') then return {0, 0, 0, -1} end
local tries = meta[4] == meta[6] and tonumber(meta[5]) or 0
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local left = -1
if meta[7] then
  local time = redis.call('TIME')
  left = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(meta[7]))
end
return {redis.call('HINCRBY', KEYS[1], 'fence', 1), tonumber(meta[3]), tries, left}",
    )
});

/// meta; whether nobody follows it any more. Notes since when. 1: done.
pub static LEFT: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
if redis.call('HGET', KEYS[1], 'end') ~= '0' then return 0 end
if ARGV[1] == '1' then
  local time = redis.call('TIME')
  redis.call('HSETNX', KEYS[1], 'nobody_since', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
else
  redis.call('HDEL', KEYS[1], 'nobody_since')
end
return 1",
    )
});

/// meta; fence. How often it was tried since its log last grew, this time included; 0: fenced.
pub static TRY: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local meta = redis.call('HMGET', KEYS[1], 'fence', 'len', 'tries', 'tried_at')
if meta[1] ~= ARGV[1] then return 0 end
local tries = (meta[2] == meta[4] and tonumber(meta[3]) or 0) + 1
redis.call('HSET', KEYS[1], 'tries', tries, 'tried_at', meta[2])
return tries",
    )
});

/// meta; fence. 1: released.
pub static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local meta = redis.call('HMGET', KEYS[1], 'fence', 'end')
if meta[1] ~= ARGV[1] or meta[2] == '1' then return 0 end
redis.call('HSET', KEYS[1], 'owner', '', 'tries', 0)
redis.call('HINCRBY', KEYS[1], 'fence', 1)
return 1",
    )
});

/// meta, gone; tenant. 0: not found, 1: done, 2: expired.
pub static CANCEL: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local meta = redis.call('HMGET', KEYS[1], 'tenant', 'end')
if not meta[1] then
  return redis.call('GET', KEYS[2]) == ARGV[1] and 2 or 0
end
if meta[1] ~= ARGV[1] then return 0 end
if meta[2] ~= '1' then redis.call('HSET', KEYS[1], 'cancel', 1) end
return 1",
    )
});

/// meta, log, gone; tenant, channel. {state as of CANCEL, request}.
pub static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local meta = redis.call('HMGET', KEYS[1], 'tenant', 'request')
if not meta[1] then
  return {redis.call('GET', KEYS[3]) == ARGV[1] and 2 or 0, ''}
end
if meta[1] ~= ARGV[1] then return {0, ''} end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('SPUBLISH', ARGV[2], '')
return {1, meta[2]}",
    )
});

/// A key; a value. Deletes the key if it has that value.
pub static DELETE_IF: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
});

/// replicas; me, whether I live. {{replica, ms since it was heard}, …}. Who leaves was heard at the beginning of time: dead
/// at once to all others, and forgotten when nothing of it is left.
pub static BEAT: LazyLock<Script> = LazyLock::new(|| {
    without_memory(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], ARGV[2] == '1' and now or 0, ARGV[1])
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local members = {}
for at = 1, #all, 2 do
  members[#members + 1] = {all[at], math.max(0, now - tonumber(all[at + 1]))}
end
return members",
    )
});

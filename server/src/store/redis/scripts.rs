//! The scripts in `lua/`: every change of more than one step. A script touches keys of one slot only, and may be repeated after a
//! lost answer. Each file begins with what the script does and what it answers, then names its keys and arguments in order.

use std::sync::LazyLock;

use redis::Script;

/// Makes a script that a full Redis refuses as a whole at its first write.
fn script(code: &str) -> Script {
    Script::new(code)
}

/// Makes a script that a full Redis also runs. These scripts end or release something or record a request, and take almost no
/// memory.
fn allow_oom(code: &str) -> Script {
    Script::new(&format!("#!lua flags=allow-oom\n{code}"))
}

/// Declares the scripts of one folder of `lua/`, each made of the named files.
macro_rules! scripts {
    ($folder:ident: $($name:ident = $kind:ident($($file:ident),+);)+) => {
        pub mod $folder {
            use super::*;

            $(pub static $name: LazyLock<Script> = LazyLock::new(|| {
                $kind(concat!($(include_str!(concat!("lua/", stringify!($folder), "/", stringify!($file), ".lua"))),+))
            });)+
        }
    };
}

scripts!(response:
    CREATE = script(create);
    APPEND = script(append);
    // Appends that end with the last entry of their logs.
    APPEND_LAST = allow_oom(append);
    PAGE = script(page);
    RENEW = script(renew);
    CLAIM = allow_oom(claim);
    TRY_AGAIN = allow_oom(try_again);
    RELEASE = allow_oom(release);
    CANCEL = allow_oom(cancel);
    DELETE = script(delete);
    FORGET_REQUEST = script(forget_request);
    REQUEST_LEAVE = allow_oom(request_leave);
    TOUCH_RETENTION = script(touch_retention);
    MARK_UNFOLLOWED = allow_oom(mark_unfollowed);
);

scripts!(fleet:
    BEAT = allow_oom(beat);
    SET_RUNNING = allow_oom(set_running);
    ANNOUNCE = allow_oom(announce);
    READ_MAXMEMORY = script(read_maxmemory);
);

scripts!(conversation:
    CREATE = script(prelude, create);
    APPEND = script(prelude, append);
    SET_METADATA = script(prelude, set_metadata);
    REMOVE_ITEM = allow_oom(prelude, remove_item);
    DELETE = script(prelude, delete);
    LIST_ITEMS = script(prelude, list_items);
    ENTER = script(prelude, enter);
    BEGIN = script(prelude, begin);
    END = allow_oom(prelude, end);
    READ_LINE = script(prelude, read_line);
);

// A tenant's conversations, and its prompts.
scripts!(index:
    ADD = script(add);
    PAGE = script(page);
    STRIKE = script(strike);
);

scripts!(prompt:
    PUT = script(put);
    GET = script(get);
    DELETE = allow_oom(delete);
    COUNT_USE = script(count_use);
    FORGET_USES = script(forget_uses);
);

scripts!(cache:
    JOIN = script(prelude, join);
    LEAD = script(prelude, lead);
    COMPLETE = allow_oom(prelude, complete);
    DISCARD = allow_oom(prelude, discard);
    LEAVE = allow_oom(prelude, leave);
);

scripts!(ledger:
    CHARGE = script(prelude, charge);
    CORRECT = allow_oom(prelude, correct);
    TAKE_BACK = allow_oom(prelude, take_back);
    EXTEND = allow_oom(prelude, extend);
);

scripts!(rate:
    DRAW = script(draw);
    READ_LEVEL = script(read_level);
);

scripts!(kv:
    PUT = script(put);
    TOUCH = script(touch);
);

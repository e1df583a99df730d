use super::*;
use crate::wire::sampling::SamplingOptions;

fn set(overrides: &[&str]) -> Result<Settings, SettingsError> {
    Settings::load(&Sources { files: vec![], overrides: overrides.iter().map(|o| o.to_string()).collect() })
}

#[test]
fn the_documented_defaults_are_complete() {
    let settings = set(&[]).unwrap();
    assert_eq!(settings.engine.scripted, ScriptedSettings::default());
}

#[test]
fn overrides_take_toml_values_and_bare_strings() {
    let settings = set(&[
        "server.bind=0.0.0.0:1",
        "auth.mode=keys",
        "engine.kind=scripted",
        "engine.scripted.tokens=5",
        "auth.keys=[{key=\"long enough\", tenant=\"t\"}]",
    ])
    .unwrap();
    assert_eq!(settings.server.bind.port(), 1);
    assert_eq!(settings.engine.scripted.tokens, 5);
    assert_eq!(settings.auth.keys[0].key.expose(), "long enough");
    assert!(!format!("{settings:?}{}", toml::to_string(&settings).unwrap()).contains("long enough"));
}

#[test]
fn models_are_tables_or_paths() {
    let models = |value: &str| set(&[&format!("engine.models={value}")]).unwrap().engine.models;
    assert_eq!(models("[]"), []);
    let plain = ModelSettings { model: "/a.gguf".into(), ..ModelSettings::default() };
    assert_eq!(models("/a.gguf"), vec![plain.clone()]);
    let named = ModelSettings {
        id: "b".into(),
        aliases: vec!["c".into()],
        model: "o/b".into(),
        max_running: Some(2),
        sampling: SamplingOptions { temperature: Some(0.5), ..SamplingOptions::default() },
        ..ModelSettings::default()
    };
    let both = r#"["/a.gguf", {id="b", aliases=["c"], model="o/b", max_running=2, sampling={temperature=0.5}}]"#;
    assert_eq!(models(both), [plain, named]);
    // The output of `caudal config` can be read again.
    let printed = toml::to_string(&set(&[&format!("engine.models={both}")]).unwrap()).unwrap();
    assert!(printed.contains("[[engine.models]]"), "{printed}");
    assert_eq!(toml::from_str::<Settings>(&printed).unwrap().engine.models, models(both));
}

#[test]
fn a_tenants_limit_stands_in_place_of_the_general_one() {
    let limits = set(&[
        "limits.requests_per_minute=5",
        "limits.tokens_per_minute=50",
        "limits.tenants.a={requests_per_minute=7}",
        "limits.tenants.b={requests_per_minute=0, tokens_per_minute=70}",
    ])
    .unwrap()
    .limits;
    let of = |tenant| {
        [limits.requests_per_minute(tenant), limits.tokens_per_minute(tenant)].map(|limit| limit.map(NonZeroU32::get))
    };
    assert_eq!((of("a"), of("b"), of("c")), ([Some(7), Some(50)], [None, Some(70)], [Some(5), Some(50)]));
    let none = set(&[]).unwrap().limits;
    assert_eq!((none.requests_per_minute("a"), none.tokens_per_minute("a")), (None, None));
}

#[test]
fn errors_name_the_key() {
    for (assignment, key) in [
        ("server.bnd=x", "server.bnd"),
        ("nonsense=1", "nonsense"),
        ("engine.slots=many", "engine.slots"),
        ("engine.kind=gpt", "engine.kind"),
        ("engine.mode=fast", "engine.mode"),
        ("engine.models=[{modle=\"x\"}]", "modle"),
        ("engine.models=[{sampling={temperature=\"hot\"}}]", "temperature"),
        ("engine.models=7", "engine.models"),
        ("auth.admin_key=short", "auth.admin_key"),
        ("engine.scripted.tokens=-1", "engine.scripted.tokens"),
        ("auth.mode=keys", "auth.keys"),
        ("store.kind=redis", "store.redis.url"),
        ("store.redis.prefix=a{b}", "store.redis.prefix"),
        ("cluster.lease_ms=1", "cluster.lease_ms"),
        ("cluster.replica=a b", "cluster.replica"),
        ("limits.requests_per_minute=1000001", "limits.requests_per_minute"),
        ("limits.tenants.t={requests_per_minute=1000001}", "limits.requests_per_minute"),
        ("limits.tokens_per_minute=50000001", "limits.tokens_per_minute"),
        ("limits.tenants.t={tokens_per_minute=50000001}", "limits.tokens_per_minute"),
        ("limits.tenants.t={rpm=1}", "rpm"),
        ("engine.kv_mb=1", "engine.kv_mb"),
        ("engine.models=[{kv_mb=15}]", "engine.kv_mb"),
    ] {
        let error = set(&[assignment]).unwrap_err().to_string();
        assert!(error.contains(key), "{assignment}: {error}");
    }
}

#[test]
fn errors_say_in_words_what_is_expected() {
    let address = "expected ADDRESS:PORT with an IP address, such as 127.0.0.1:9090";
    let whole = "expected a whole number, 0 or more";
    for (assignment, said) in [
        ("server.bind=foo", format!("server.bind: {address}")),
        ("server.bind=:9090", format!("server.bind: {address}")),
        ("server.bind=localhost:9310", format!("server.bind: {address}")),
        ("server.bind=9090", format!("server.bind: {address}")),
        ("server.admin_bind=foo", format!("server.admin_bind: {address}")),
        ("server.workers=two", format!("server.workers: found \"two\", {whole}")),
        ("server.workers=-1", format!("server.workers: found -1, {whole}")),
        ("engine.context_length=1e9", "engine.context_length: found 1000000000, expected a whole number from".into()),
        ("engine.gpu_memory=all", "engine.gpu_memory: found \"all\", expected a number".into()),
        ("engine.kind=gpt", "engine.kind: found \"gpt\", expected \"mistralrs\" or \"scripted\"".into()),
        ("auth.mode=keyz", "auth.mode: expected \"none\", \"keys\" or \"open\"".into()),
        ("server.allowed_origins=7", "server.allowed_origins: found 7, expected a list".into()),
        ("server=7", "server: found 7, expected a table".into()),
        ("server.bindd=x", "unknown setting server.bindd; did you mean server.bind?".into()),
        ("engine.model=/a.gguf", "unknown setting engine.model; did you mean engine.models?".into()),
        (
            "engine.models=[{alias=\"a\"}]",
            "setting engine.models[0].alias; did you mean engine.models[0].aliases?".into(),
        ),
        ("engine.models=[{id=7}]", "engine.models[0].id: found 7, expected a string".into()),
        ("admin_key=x", "unknown setting admin_key; did you mean auth.admin_key?".into()),
        ("engine.bind=x", "unknown setting engine.bind; did you mean server.bind?".into()),
        ("cache.colour=x", "unknown setting cache.colour; cache has max_mb".into()),
        ("nonsense=1", "unknown setting nonsense; the sections are server, auth, engine,".into()),
        ("auth.keys=[{key=\"long enough\"}]", "auth.keys[0]: tenant is missing".into()),
    ] {
        let error = set(&[assignment]).unwrap_err().to_string();
        assert!(error.contains(&said) && error.ends_with(" (--set)"), "{assignment}: {error}");
    }
}

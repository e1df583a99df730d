//! Tests that streams outlive engines that fail in the middle of them.

use super::*;
use crate::engine::mistral::batch::faults::{Fault, arm};

fn asked(number: usize, tenant: &str) -> GenerateRequest {
    let sampling = Sampling { temperature: 1.0, seed: number as u64, ..Sampling::default() };
    GenerateRequest { sampling, tenant: tenant.into(), ..request(&format!("Tell me about the number {number}."), 20) }
}

#[test]
fn sixteen_streams_outlive_fifty_engines() {
    RUNTIME.block_on(async {
        let engine = load(config()).await.expect("the model loads");
        let alone = (0..16).map(|n| collect(ENGINE.generate("m", asked(n, "t")).unwrap()));
        let alone = futures::future::join_all(alone).await;
        let mut broken = 0;
        while broken < 50 {
            let tenant = format!("round {broken}");
            let running = (0..16).map(|n| collect(engine.generate("m", asked(n, &tenant)).unwrap()));
            // One error and one panic in each round, some in a prompt and some after a few tokens.
            for (index, fault) in [Fault::Error, Fault::Panic].into_iter().enumerate() {
                arm(&tenant, fault, 30 + broken % 25 + 10 * index, 1);
            }
            let replies = futures::future::join_all(running).await;
            assert_eq!(replies, alone, "round {broken}");
            broken += 2;
        }
    });
}

#[test]
fn whoever_breaks_every_engine_fails_and_bystanders_do_not() {
    RUNTIME.block_on(async {
        let engine = load(config()).await.expect("the model loads");
        let bystanders: Vec<_> = (0..4).map(|n| engine.generate("m", asked(n, "bystander")).unwrap()).collect();
        let bystanders = tokio::spawn(futures::future::join_all(bystanders.into_iter().map(collect)));
        arm("poison", Fault::Panic, 0, usize::MAX);
        let poison = collect(engine.generate("m", asked(99, "poison")).unwrap()).await;
        assert!(matches!(poison.finish, Some(Finish::Failed(_))), "{poison:?}");
        let alone = (0..4).map(|n| collect(ENGINE.generate("m", asked(n, "t")).unwrap()));
        assert_eq!(bystanders.await.unwrap(), futures::future::join_all(alone).await);
        let after = collect(engine.generate("m", asked(1, "after")).unwrap()).await;
        assert_eq!(after, collect(ENGINE.generate("m", asked(1, "t")).unwrap()).await);
    });
}

#[test]
fn a_step_that_does_not_return_is_found_and_its_streams_go_on() {
    RUNTIME.block_on(async {
        let engine = load(config()).await.expect("the model loads");
        // The first steps may take much longer, so the hang comes after them.
        collect(engine.generate("m", asked(0, "warm")).unwrap()).await;
        arm("hangs", Fault::Hang, 45, 1);
        let running = (0..3).map(|n| collect(engine.generate("m", asked(n, "hangs")).unwrap()));
        let replies = futures::future::join_all(running).await;
        let alone = (0..3).map(|n| collect(ENGINE.generate("m", asked(n, "t")).unwrap()));
        assert_eq!(replies, futures::future::join_all(alone).await);
    });
}

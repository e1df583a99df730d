//! The rows: the requests of each and the figures that result.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{
    Options, Row,
    client::{self, Chat, Reply},
    crowd::Crowd,
    memory,
    prompts::{Prompts, message},
    report::{Sample, Unit},
    server::Server,
};

/// The lengths of the measured prompts, in tokens.
const PROMPTS: [usize; 3] = [440, 890, 1720];
/// The length of each prompt that interrupts a running chat, in tokens.
const INTERRUPTION: usize = 1700;
const TURNS: usize = 10;

/// Measures rows, with new prompts for each.
pub struct Bench<'a> {
    pub options: &'a Options,
    pub prompts: Prompts,
}

impl Bench<'_> {
    /// Measures one row on one server once.
    pub async fn measure(&mut self, row: Row, server: &Server) -> Result<Vec<Sample>, String> {
        match row {
            Row::One => self.one(server).await,
            Row::Prompts => self.long_prompts(server).await,
            Row::Chats8 => self.chats(server, 8).await,
            Row::Chats32 => self.chats(server, 32).await,
            Row::Pause => self.pause(server).await,
            Row::Turns => self.turns(server).await,
            Row::Rss => self.rss(server).await,
            Row::Busy => Ok(vec![]),
        }
    }

    async fn one(&mut self, server: &Server) -> Result<Vec<Sample>, String> {
        let reply = self.full_reply(server, 50, 128).await?;
        Ok(vec![
            Sample::new("one chat: first token", Unit::Ms, ms(reply.first_token())),
            Sample::new("one chat: decode", Unit::Rate, decode_rate(&reply)?),
        ])
    }

    async fn long_prompts(&mut self, server: &Server) -> Result<Vec<Sample>, String> {
        let mut samples = vec![];
        for tokens in PROMPTS {
            let reply = self.full_reply(server, tokens, 64).await?;
            let read = reply.prompt_tokens.unwrap_or(tokens as u64);
            if reply.cached_tokens.is_some_and(|cached| cached * 10 > read) {
                return Err(format!("the server had cached {:?} of {read} tokens", reply.cached_tokens));
            }
            let name = |figure| format!("prompt of {tokens} tokens: {figure}");
            samples.push(Sample::new(name("its tokens"), Unit::Tokens, read as f64));
            samples.push(Sample::new(name("first token"), Unit::Ms, ms(reply.first_token())));
            samples.push(Sample::new(name("rate"), Unit::Rate, read as f64 / reply.first_token().as_secs_f64()));
            samples.push(Sample::new(name("decode after it"), Unit::Rate, decode_rate(&reply)?));
        }
        Ok(samples)
    }

    async fn chats(&mut self, server: &Server, count: usize) -> Result<Vec<Sample>, String> {
        let chats = self.prompts.mixed_chats(count, 96);
        let crowd = Crowd::run(server, self.options, &chats).await?;
        let tokens: u64 = crowd.replies.iter().map(|reply| reply.tokens).sum();
        Ok(vec![
            Sample::new(format!("{count} chats: output"), Unit::Rate, crowd.output_rate()),
            Sample::new(format!("{count} chats: median first token"), Unit::Ms, ms(crowd.median_first_token())),
            Sample::new(format!("{count} chats: output tokens"), Unit::Tokens, tokens as f64),
        ])
    }

    async fn pause(&mut self, server: &Server) -> Result<Vec<Sample>, String> {
        let running = self.prompts.chat(50, 512);
        let interruptions = [self.prompts.chat(INTERRUPTION, 8), self.prompts.chat(INTERRUPTION, 8)];
        let (signal, runs) = oneshot::channel();
        let interrupt = async {
            runs.await.map_err(|_| "the chat did not begin to run".to_owned())?;
            let begin = Instant::now();
            Ok((begin, Crowd::run(server, self.options, &interruptions).await?))
        };
        let chat = client::chat_that_signals(server, self.options, &running, signal);
        let (reply, (begin, crowd)) = tokio::try_join!(chat, interrupt)?;
        let end = crowd.replies.iter().map(Reply::first).max().unwrap_or(begin);
        if reply.last() < end {
            return Err("the running chat ended before the prompts were read".into());
        }
        let gap = reply.longest_gap(begin, end).ok_or("the running chat had no gap")?;
        Ok(vec![
            Sample::new("pause of a chat while two prompts arrive", Unit::Ms, ms(gap)),
            Sample::new("both prompts: first token of the later", Unit::Ms, ms(end - begin)),
        ])
    }

    async fn turns(&mut self, server: &Server) -> Result<Vec<Sample>, String> {
        let mut chat = self.prompts.chat(70, 64);
        for turn in 1.. {
            let reply = client::chat(server, self.options, &chat).await?;
            if turn == TURNS {
                let tokens = reply.prompt_tokens.unwrap_or_default() as f64;
                return Ok(vec![
                    Sample::new("turn 10: first token", Unit::Ms, ms(reply.first_token())),
                    Sample::new("turn 10: tokens of its prompt", Unit::Tokens, tokens),
                ]);
            }
            chat.messages.extend([message("assistant", reply.text), self.prompts.next_message(40)]);
        }
        Ok(vec![])
    }

    async fn rss(&mut self, server: &Server) -> Result<Vec<Sample>, String> {
        let pid = server.pid.ok_or("its process id is not known")?;
        let chats = self.prompts.mixed_chats(8, 96);
        let (crowd, peak) = memory::peak_during(pid, Crowd::run(server, self.options, &chats)).await?;
        crowd?;
        Ok(vec![Sample::new("resident memory with 8 chats", Unit::Mb, peak as f64 / 1e6)])
    }

    /// Returns the reply to a new prompt. Tries again with another prompt if the reply has less than half the length.
    async fn full_reply(&mut self, server: &Server, prompt: usize, tokens: u32) -> Result<Reply, String> {
        for _ in 0..5 {
            let chat: Chat = self.prompts.chat(prompt, tokens);
            let reply = client::chat(server, self.options, &chat).await?;
            if reply.tokens * 2 >= u64::from(tokens) {
                return Ok(reply);
            }
        }
        Err(format!("the model ended five replies before {} tokens; --ban names the tokens that end one", tokens / 2))
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn decode_rate(reply: &Reply) -> Result<f64, String> {
    reply.decode_rate().ok_or_else(|| "the whole reply arrived in one piece".into())
}

//! Client secrets: short-lived credentials that a server with a key gives to a browser. They are signed and not stored. Their pins
//! limit them to a model, a conversation or an output length.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The prefix of every client secret; OpenAI's have the same.
const PREFIX: &str = "ek_";
/// Most bytes of a client secret.
const LONGEST: usize = 4096;

/// The limits of a client secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
}

/// The signed content of a client secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The id of the key that made the secret.
    key: String,
    /// Unix seconds.
    pub expires_at: u64,
    #[serde(flatten)]
    pub pins: Pins,
    /// Random, so that two secrets of one second differ.
    nonce: String,
}

/// A client secret that is not verified yet.
pub struct Sent<'a> {
    signed: &'a str,
    signature: Vec<u8>,
}

/// Makes the text of a secret, `ek_KEY.CLAIMS.SIGNATURE`, from characters that are allowed in the name of a subprotocol.
pub fn sign(key: &str, signs: &[u8; 32], pins: Pins, expires_at: u64) -> Option<String> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).ok()?;
    let claims = Claims { key: key.to_owned(), expires_at, pins, nonce: hex::encode(nonce) };
    let signed = format!("{PREFIX}{key}.{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?));
    let mac = mac(signs, &signed)?.finalize().into_bytes();
    let secret = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
    (secret.len() <= LONGEST).then_some(secret)
}

/// Splits a client secret into the id of its key and the part to verify. Returns `None` if the text is not a client secret.
pub fn parse(secret: &str) -> Option<(&str, Sent<'_>)> {
    if secret.len() > LONGEST {
        return None;
    }
    let (signed, signature) = secret.rsplit_once('.')?;
    let (key, _) = signed.strip_prefix(PREFIX)?.split_once('.')?;
    Some((key, Sent { signed, signature: URL_SAFE_NO_PAD.decode(signature).ok()? }))
}

impl Sent<'_> {
    /// Returns the claims if the secret was signed with `signs`.
    pub fn verified(&self, signs: &[u8; 32]) -> Option<Claims> {
        mac(signs, self.signed)?.verify_slice(&self.signature).ok()?;
        let (key, claims) = self.signed.strip_prefix(PREFIX)?.split_once('.')?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        (claims.key == key).then_some(claims)
    }
}

fn mac(signs: &[u8; 32], signed: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(signs).ok()?;
    mac.update(signed.as_bytes());
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNS: [u8; 32] = [7; 32];

    fn pins() -> Pins {
        Pins { model: Some("m".into()), conversation: None, max_output_tokens: Some(5) }
    }

    #[test]
    fn what_is_signed_is_read_again() {
        let secret = sign("k1", &SIGNS, pins(), 99).unwrap();
        assert_ne!(secret, sign("k1", &SIGNS, pins(), 99).unwrap());
        let (key, sent) = parse(&secret).unwrap();
        let claims = sent.verified(&SIGNS).unwrap();
        assert_eq!((key, claims.expires_at, claims.pins), ("k1", 99, pins()));
        assert!(secret.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{secret}");
    }

    #[test]
    fn whatever_is_changed_is_not_verified() {
        let secret = sign("k1", &SIGNS, pins(), 99).unwrap();
        assert!(parse(&secret).unwrap().1.verified(&[8; 32]).is_none(), "another key's");
        for at in 0..secret.len() {
            let mut changed = secret.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let verified = parse(&changed).and_then(|(_, sent)| sent.verified(&SIGNS));
            assert!(verified.is_none(), "{at}: {changed}");
        }
        for sent in ["", "ek_", "ek_..", "ek_k1", "ek_k1.e30", "ek_k1.e30.", "sk_k1.e30.AAAA"] {
            assert!(parse(sent).and_then(|(_, sent)| sent.verified(&SIGNS)).is_none(), "{sent}");
        }
    }
}

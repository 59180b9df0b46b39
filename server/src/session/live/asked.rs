//! What an agent asks its server for: bytes of components, and what lists say.

use bytes::Bytes;
use writ_common::status::Failure;
use writ_proto::v1::{self as proto, server_frame::Frame};
use writ_protocol::envelope::InvalidDocument;
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_protocol::reputation::{Question, Reputation};

use super::{Live, millis};
use crate::reputation::{Answer, Lists, Said};
use crate::session::End;
use crate::updates::pieces::not_now;

impl Live<'_> {
    /// It asks for bytes of a component (protocol.md §6.17).
    pub(super) async fn piece(&mut self, request: proto::PieceRequest) -> Result<(), End> {
        let proto::PieceRequest { sha256, offset } = request;
        let malformed = |_| Failure::protocol("a request for a piece names no component");
        let digest = Digest::try_from(sha256.as_ref()).map_err(malformed)?;
        let updates = &self.server.updates;
        if let Some(wait) = self.share.wait(&updates.pieces, self.outbound.is_idle()) {
            return self.say(Frame::Piece(not_now(sha256, offset, wait))).await;
        }
        let piece = updates.pieces.read(&updates.folder, digest, offset).await;
        if piece.data.len() < MAX_PIECE_BYTES {
            // The last one, or none.
            self.share.ends();
        }
        self.say(Frame::Piece(piece)).await
    }

    /// It asks what a list says about some values (protocol.md §6.18).
    pub(super) async fn question(&mut self, question: &Bytes) -> Result<(), End> {
        let malformed = |error: InvalidDocument| Failure::protocol(format!("no question: {error}"));
        let asked = Question::decode(question).map_err(malformed)?;
        let (server, digest) = (self.server, Digest::of(question));
        let answer = match self.question_budget.take(server.clock.monotonic()) {
            true => server.updates.lists.look(&server.updates.folder, asked).await,
            false => Lists::later(),
        };
        let mut frame =
            proto::ReputationAnswer { question: digest.as_bytes().to_vec().into(), ..Default::default() };
        match answer {
            Answer::Said(said) => {
                let Said { version, list, listed, counts_for } = said;
                let (fleet, agent) = (server.fleet, self.agent.id);
                let said = |answered_at| Reputation {
                    fleet,
                    agent,
                    question: digest,
                    version,
                    list,
                    listed,
                    counts_for,
                    answered_at,
                };
                frame.reputation = server.signer.reputation(said).map_err(Failure::from)?.bytes().clone();
            }
            Answer::NoList => frame.no_list = true,
            Answer::Later(wait) => frame.again_after_ms = millis(wait),
        }
        self.say(Frame::ReputationAnswer(frame)).await
    }
}

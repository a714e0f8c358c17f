"""Answers to the questions of agents: of the user's own runs, and of threads that are shared.

answers = Answers(session, services)
if not answers.answer_now(frame):               # in the reader: the question is open here
    await answers.answer_later(frame)           # in the background: it is not
"""

from attrs import frozen

from netra_trio.agents.questions import rejected
from netra_trio.ids import QuestionId, UserId
from netra_trio.protocol.codec import Frame
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.rooms import thread_room
from netra_trio.rooms.permission import Action
from netra_trio.services import Services
from netra_trio.sessions.session import Session


@frozen
class Answers:
    """Answers questions for one client.

    Attributes:
        session: The session of the client, which gets how its question is closed.
        services: The services of the application.
    """

    session: Session
    services: Services

    def answer_now(self, frame: Frame) -> bool:
        """Answer a question of the user that is open at this node; return whether there is one.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        return self._answer_here(frame, self.session.user.id)

    async def answer_later(self, frame: Frame) -> None:
        """Answer a question of another node or user; an error says how it was closed.

        Cancelling is safe; the answer may have been given.

        Raises:
            Refused: ANSWER_REJECTED, or SERVICE_UNAVAILABLE.
            StoreUnavailable: If the store cannot answer now.
        """
        question_id, store = frame.message.question_id, self.services.store
        owner = self.session.user.id
        known = await store.find_question(owner, question_id)
        if known is None:
            owner = await self._find_owner(question_id)
            if self._answer_here(frame, owner):
                return
            known = await store.find_question(owner, question_id)
        others = self.services.other_nodes
        if others is not None and known is not None and known.owner is not None:
            is_open = await others.answer(
                known.owner,
                frame.message,
                owner=owner,
                user_id=self.session.user.id,
                session_id=self.session.id,
                correlation_id=frame.correlation_id,
            )
            if is_open:
                return
            known = await store.find_question(owner, question_id)
        raise rejected(None if known is None else known.outcome)

    def _answer_here(self, frame: Frame, owner: UserId) -> bool:
        """Answer a question that is open at this node; return whether it is.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        question = self.services.threads.question(owner, frame.message.question_id)
        if question is not None:
            question.answer(
                frame.message,
                user_id=self.session.user.id,
                reader=self.session.events,
                correlation_id=frame.correlation_id,
            )
        return question is not None

    async def _find_owner(self, question_id: QuestionId) -> UserId:
        """Return another user whose question this user may answer.

        Raises:
            Refused: ANSWER_REJECTED, the same for a question that does not exist;
                SERVICE_UNAVAILABLE if the application's function fails.
            StoreUnavailable: If the store cannot answer now.
        """
        found = await self.services.store.find_question_thread(question_id)
        if found is None:
            raise rejected(None)
        user_id = self.session.user.id
        try:
            await self.services.rooms.access.check(user_id, thread_room(*found), Action.ANSWER)
        except Refused as refused:
            if refused.problem.code is ErrorCode.FORBIDDEN:
                raise rejected(None) from None
            raise
        return found[0]

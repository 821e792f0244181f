"""Turns of a conversation, for tests."""


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


SYSTEM, ASK, ANSWER = turn("system", "Be brief."), turn("user", "Why?"), turn("assistant", "Because.")

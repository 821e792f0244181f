"""How long something took or will take, in words."""


def duration(seconds: float) -> str:
    """`0.4 s`, `48 s`, `3 min 05 s` or `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.3g} s" if seconds < 0.1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

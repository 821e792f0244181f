"""Rented, reserved or bought, and whether a project pays for itself."""

from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost.project import not_negative, positive

HOURS_PER_MONTH = 730  # 8,760 hours of a year / 12


@dataclass(frozen=True)
class Purchase:
    """A machine that is bought: dollars, years of use, what it then sells for, and what running it costs."""

    dollars: float
    years: float = 3.0
    resale_share: float = 0.2
    watts: float = 700.0
    dollars_per_kwh: float = 0.15
    upkeep_per_month: float = 50.0  # space, network, repairs, the hours of whoever looks after it

    def per_month(self, hours_used: float) -> float:
        """Dollars a month: depreciation in equal parts, energy of the hours used, upkeep.

        Raises:
            ParameterError: a negative value, or more hours than a month has.
        """
        positive(dollars=self.dollars, years=self.years)
        not_negative(
            hours_used=hours_used, resale_share=self.resale_share, watts=self.watts,
            dollars_per_kwh=self.dollars_per_kwh, upkeep_per_month=self.upkeep_per_month,
        )  # fmt: skip
        if hours_used > HOURS_PER_MONTH:
            raise ParameterError(f"hours_used={hours_used:g}: a month has {HOURS_PER_MONTH} hours.")
        depreciation = self.dollars * (1 - self.resale_share) / (12 * self.years)
        return depreciation + hours_used * self.watts / 1000 * self.dollars_per_kwh + self.upkeep_per_month


def per_month(hours_used: float, on_demand: float, reserved: float, purchase: Purchase) -> dict[str, float]:
    """Dollars a month each way: on demand for the hours used, reserved for all hours, bought.

    Args:
        on_demand, reserved: dollars an hour.
    """
    positive(on_demand=on_demand, reserved=reserved)
    bought = purchase.per_month(hours_used)
    return {"on demand": hours_used * on_demand, "reserved": HOURS_PER_MONTH * reserved, "bought": bought}


def break_even_hours(on_demand: float, fixed_per_month: float, variable_per_hour: float = 0.0) -> float:
    """Hours a month from which a fixed price is cheaper than renting: fixed / (rent - what an hour still costs).

    Raises:
        ParameterError: an hour of one's own is no cheaper than a rented one, so that no use would ever pay.
    """
    positive(on_demand=on_demand, fixed_per_month=fixed_per_month)
    not_negative(variable_per_hour=variable_per_hour)
    if variable_per_hour >= on_demand:
        raise ParameterError(
            f"variable_per_hour={variable_per_hour:g} is no less than on_demand={on_demand:g}: it never pays."
        )
    return fixed_per_month / (on_demand - variable_per_hour)


def total(once: dict[str, float], per_month: dict[str, float], months: float) -> dict[str, float]:
    """Total cost of ownership by part: what is paid once, and what is paid every month, over `months`."""
    not_negative(**once, **per_month)
    positive(months=months)
    return dict(once) | {name: value * months for name, value in per_month.items()}


def return_on_investment(cost: float, gain: float) -> float:
    """(gain - cost) / cost: 0.5 is half as much again as was put in."""
    positive(cost=cost)
    not_negative(gain=gain)
    return (gain - cost) / cost


def payback_months(once: float, saved_per_month: float, paid_per_month: float = 0.0) -> float:
    """Months until what is saved has paid for what was spent once.

    Raises:
        ParameterError: no more is saved in a month than is paid.
    """
    positive(once=once, saved_per_month=saved_per_month)
    not_negative(paid_per_month=paid_per_month)
    if saved_per_month <= paid_per_month:
        raise ParameterError(f"saved_per_month={saved_per_month:g} does not exceed paid_per_month={paid_per_month:g}.")
    return once / (saved_per_month - paid_per_month)

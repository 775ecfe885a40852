select spent, time_left
from rowcall.spent_of_budgets(p_tenant => %(tenant)s, p_currency => %(currency)s, p_period => %(period)s)
order by place
